"""What a run will take on a slice of accelerators that is not there."""
