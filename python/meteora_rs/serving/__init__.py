"""What is done while a model serves: requests, loads and unloads, changes of gates."""
