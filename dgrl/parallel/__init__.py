"""What runs where: processes, a Ray cluster, the device."""
