"""The networks that exist: names, catalog and builder, of torchvision and timm."""
