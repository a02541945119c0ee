"""Flow matching: noise schedules, training objectives, samplers."""
