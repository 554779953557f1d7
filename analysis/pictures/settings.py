"""stub until merged"""

Panel = plot_settings = None
