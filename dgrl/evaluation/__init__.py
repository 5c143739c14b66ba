"""How well queries find their persons: ranking metrics and a report to look at."""
