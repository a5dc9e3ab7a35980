"""Tasks that arrive one by one: pools and executors in the standard library's words."""
