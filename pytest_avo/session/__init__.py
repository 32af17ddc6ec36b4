"""The pytest skin: options, items, reports, exit statuses. What does not need pytest lives below."""
