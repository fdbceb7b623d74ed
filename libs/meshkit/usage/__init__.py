"""Spending: reserved before, settled after, always against a project.

The functions of schema `usage` are the one place where money is counted. A process leases it
there in blocks and spends from them in memory (`blocks`); what was spent is told a moment later,
many spends at a time (`budget`).
"""

from meshkit.usage.budget import Budget as Budget
from meshkit.usage.spend import Entry as Entry
from meshkit.usage.spend import Spend as Spend
from meshkit.usage.spend import Used as Used
