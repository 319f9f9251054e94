"""Post-training quantization: calibration, ranges, quantizer placement, correction, weight compression."""
