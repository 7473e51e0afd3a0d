"""File formats of models and data, one file each; none executes code from the file."""

from ._choose import DataSource as DataSource
from ._choose import choose_data as choose_data
from ._choose import choose_model_format as choose_model_format
from ._choose import data_schema as data_schema
from ._choose import existing as existing
from ._choose import model_format as model_format
from ._protocol import DataFormat as DataFormat
from ._protocol import ModelFormat as ModelFormat
