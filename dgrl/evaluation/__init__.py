"""How well queries find their persons: ranking figures and a report to look at."""
