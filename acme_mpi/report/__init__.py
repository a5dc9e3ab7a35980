"""What people see of a run, from its journals alone: figures, pages, and who shows them."""
