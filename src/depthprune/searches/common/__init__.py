"""What searches share: the protocol they speak, moves between sets, rankings."""
