"""What is believed and allowed: grants, and the policy that makes them."""
