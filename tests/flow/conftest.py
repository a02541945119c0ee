from tests.model.conftest import quick_compiles

__all__ = ["quick_compiles"]
