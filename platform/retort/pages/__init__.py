"""What every report's page has in common: one HTML file that opens offline, in the reader's light or dark colours.

rendering.py    a room's template with the common style.css
svg.py          matplotlib's drawings as inline SVG in the page's colours
numbers.py      how figures are written for readers
"""
