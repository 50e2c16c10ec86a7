"""What `dynconv data` prints and draws."""
