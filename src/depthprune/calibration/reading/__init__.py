"""Reading what a calibration is drawn from: files, hubs, the standard library, conversations."""
