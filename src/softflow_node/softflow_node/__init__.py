"""What every node of softflow shares: validated parameters, quality of service, counters, the spin loop."""
