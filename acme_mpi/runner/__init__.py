"""Where the function is called: in this process (`inline`) or in a child of it (`child`)."""
