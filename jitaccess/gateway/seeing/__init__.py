"""What a principal sees: lists, what servers offer, subscriptions, and who hears that something changed."""
