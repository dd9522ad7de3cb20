"""What another package needs to add an environment, an agent and an algorithm to trialgym."""
