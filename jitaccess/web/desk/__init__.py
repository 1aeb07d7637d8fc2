"""The inbox, requests and deciding on them."""
