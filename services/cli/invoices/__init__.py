"""`tallystick invoice`: what customers are invoiced, and what is taken back."""
