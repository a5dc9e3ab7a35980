"""Results as values, tables and labelled arrays, for whoever opens them later."""
