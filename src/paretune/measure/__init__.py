"""Latency, size, cost and memory of files, on the runtime that ships; importing it imports no runtime."""

from paretune.measure._cost import macs, parameters
from paretune.measure._doctor import doctor
from paretune.measure._engine import Event
from paretune.measure._file import file, size
from paretune.measure._latency import latency
from paretune.measure._layers import layer_table
from paretune.measure._operators import Convolution, Operator, OperatorTable, Product, profiled
from paretune.measure._process import fresh_process
from paretune.measure._service import Service, parse_deadline, parse_rate, serve

__all__ = [
    "Convolution",
    "Event",
    "Operator",
    "OperatorTable",
    "Product",
    "Service",
    "doctor",
    "file",
    "fresh_process",
    "latency",
    "layer_table",
    "macs",
    "parameters",
    "parse_deadline",
    "parse_rate",
    "profiled",
    "serve",
    "size",
]
