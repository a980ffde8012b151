"""The use cases behind the entry points: fine-tune a subject, edit a cell, gather a sweep.

The one place that wires trainer, editing, metrics and report together; importable by cluster workers.
"""
