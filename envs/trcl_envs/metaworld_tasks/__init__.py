"""The table of Meta-World's fifty tasks, one file a family.

Adding a task is adding one entry; ``trcl_envs.metaworld`` says what each column means, ``rules`` holds the rules and
shapes that several tasks share.
"""

from trcl_envs.metaworld import SawyerTask
from trcl_envs.metaworld_tasks import (
    buttons,
    coffee,
    doors,
    handles,
    pegs,
    placing,
    plates,
    pushing,
    reaching,
    sliding,
    tools,
    turning,
)

FAMILIES = (buttons, coffee, doors, handles, pegs, placing, plates, pushing, reaching, sliding, tools, turning)
TASKS: dict[str, SawyerTask] = {name: task for family in FAMILIES for name, task in family.TASKS.items()}
