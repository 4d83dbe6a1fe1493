"""Readers that data sets share: archives, tensorflow-datasets, face photographs."""
