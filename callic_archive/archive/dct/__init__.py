"""Images that were decoded from JPEG streams, by the coefficients of those streams."""
