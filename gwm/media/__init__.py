"""Pictures, sound and video: read, written, cropped to a face."""
