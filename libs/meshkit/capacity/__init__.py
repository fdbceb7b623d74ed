"""How much of everything a load needs, from what was measured of a smaller one.

Pure: reports and wishes in, plans and predictions out. `citemesh capacity` prints them;
docs/capacity.md says what the model leaves out.
"""

from meshkit.capacity.check import Comparison as Comparison
from meshkit.capacity.check import compare as compare
from meshkit.capacity.measured import Measured as Measured
from meshkit.capacity.measured import ReportInvalid as ReportInvalid
from meshkit.capacity.plan import Plan as Plan
from meshkit.capacity.plan import Target as Target
from meshkit.capacity.plan import plan as plan
