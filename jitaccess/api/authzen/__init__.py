"""OpenID AuthZEN: decisions for other enforcement points, and requests for what they deny. See docs/authzen.md."""
