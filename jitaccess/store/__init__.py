"""What is needed of the database itself: its clock, its connection settings, leader election."""
