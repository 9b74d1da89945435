"""What happens around the steps: checkpoints, samples, pictures, and the line that a person watches."""
