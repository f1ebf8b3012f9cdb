"""What of a frame is seen: crops, protocols, RandAugment's draws."""
