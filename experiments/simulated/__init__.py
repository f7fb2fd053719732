"""Many short runs of the trainer on one device, as one program each."""
