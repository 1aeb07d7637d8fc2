"""Approval policies: which rule decides about a request, who has to say yes, and what is pinned when it is filed."""
