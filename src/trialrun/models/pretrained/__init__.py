"""The pretrained weights that torchvision publishes: their files, downloads and preprocessing."""
