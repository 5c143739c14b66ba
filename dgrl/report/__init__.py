"""The HTML report and the sheets of ranked lists."""
