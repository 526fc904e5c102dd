"""Fine-tuning: phases of a training, the start of the last layer, the learning rate range test."""
