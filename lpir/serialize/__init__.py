"""IR files: OpenVINO's .xml and .bin, read and written."""
