"""Every page in a real Chromium: in both themes, at a desk and on a phone, as they look in an installation at work."""
