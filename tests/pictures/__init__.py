"""Pictures of the dashboards for docs/dashboards.md, of a real run: ``make pictures``."""
