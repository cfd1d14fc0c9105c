"""Models on packed integer codes: how rows become codes, products of codes, the packed model and its file."""
