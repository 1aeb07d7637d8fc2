"""The one way out: HTTP to addresses that were checked, without redirects, within caps."""
