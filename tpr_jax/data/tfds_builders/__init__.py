"""The data sets as TensorFlow Datasets: sharded records that stream from a disk or a bucket."""
