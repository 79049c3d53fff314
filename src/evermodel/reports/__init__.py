"""Pages, charts and reports for people: one style for all of them."""
