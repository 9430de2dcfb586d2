from dil_tutorial.course.assignments import settings

__all__ = ["settings"]
