"""From annotations and photos to batches on the device."""
