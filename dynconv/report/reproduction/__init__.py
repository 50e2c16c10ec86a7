"""What `dynconv reproduce` trains and prints: the tables of the papers."""
