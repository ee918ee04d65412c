"""Training: the loop and everything of it that is data or plain maths; autograd and the optimiser are the backend's."""
