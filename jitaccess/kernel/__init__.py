"""Pure building blocks every layer may import: no Django, no I/O, no state but the id clock."""
