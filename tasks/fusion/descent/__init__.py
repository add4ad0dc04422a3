"""What a step of the descent over groups computes: costs of slots, and the assignment of least cost."""
